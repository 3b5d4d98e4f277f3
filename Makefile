# One target, one script. `make test VENV=/path` uses an environment that is already there; `ARGS` is passed on.
.PHONY: demo test long check docs bench chaos

demo: ## three requests to a governed application, and their verified receipts
	@sh scripts/demo.sh $(ARGS)

test: ## the default test suite
	@sh scripts/test.sh $(ARGS)

long: ## the tests that are long by nature: whole applications, browsers, load, installations
	@sh scripts/long.sh $(ARGS)

check: ## format, lint, types
	@sh scripts/check.sh

docs: ## the pages and the API reference as a site with search, in build/site
	@sh scripts/docs.sh $(ARGS)

bench: ## measure against the bare application, the published packages and the sidecar in Rust
	@sh scripts/bench.sh $(ARGS)

chaos: ## the tests marked `slow` at full size
	@sh scripts/chaos.sh $(ARGS)

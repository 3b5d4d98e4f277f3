"""The reverse proxy of `api protect --upstream`: requests that were allowed go on to an unmodified service."""

"""`receipt diff`: what enforcing would refuse of the requests that were only observed, and what to write about it."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument
from chio_sidecar.cli.options import TIMES, moment, positive, required_store, wants_json
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped, progress
from chio_sidecar.explain.remedies import namespaces, remedies, view_policies
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.observed import Earlier, Group, Tally, is_observed
from chio_sidecar.store.statements import states_erasure

WOULD_REFUSE = 3
"""Exit status if something would have been refused; 1 is an error, and 2 wrong usage."""

DESCRIPTION = """Compare what was allowed to run in observe mode with what enforcing would have done.

Counts the receipts of requests that an application in observe mode sent (CHIO_OBSERVE, CHIO_OBSERVE_PATHS,
CHIO_OBSERVE_PREFIXES or Depends(Observe())), and groups those that would have been refused by route and reason. Each
group shows its share of the route's requests, its callers, its time, and what to write so that its requests pass.
Requests that left no receipt are in the application's log, as "OBSERVED, NOT REFUSED".

    chio-sidecar receipt diff --receipt-store FILE --json > report.json      later:
    chio-sidecar receipt diff --receipt-store FILE --since 24h --since-report report.json --fail-on new

exit status: 0 nothing would have been refused (with --fail-on new: nothing that the earlier report does not have), 3
something would, 1 there is nothing to compare or the store cannot be read, 2 wrong usage
"""

_SHOWN = 4  # groups that fit on one screen


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt diff`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    parser.add_argument("--since", metavar="TIME", type=moment, help=f"signed then or later: {TIMES}")
    parser.add_argument("--last", metavar="N", type=positive, help="only the newest N receipts")
    parser.add_argument(
        "--all",
        action="store_true",
        help="count every receipt, not only those marked as observed: other sidecars do not mark them",
    )
    parser.add_argument("--by", choices=["route", "caller"], default="route", help="make a group for each caller too")
    parser.add_argument(
        "--top", metavar="N", type=positive, default=_SHOWN, help=f"groups to print for people ({_SHOWN}); JSON has all"
    )
    parser.add_argument(
        "--since-report", metavar="FILE", type=Path, help="compare with an earlier report, which --json has printed"
    )
    parser.add_argument(
        "--fail-on",
        choices=["any", "new"],
        default="any",
        help="what makes the exit status 3: any refusal, or only those that --since-report does not have (any)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; return 0 if nothing would have been refused, else `WOULD_REFUSE`.

    Raises:
        CliError: no store is named, it has nothing to compare, or the earlier report cannot be read.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    if args.fail_on == "new" and args.since_report is None:
        raise CliError("--fail-on new needs an earlier report", fix="give --since-report FILE")
    earlier = _read(args.since_report) if args.since_report is not None else None
    tally = Tally(by_caller=args.by == "caller")
    store = required_store(args, "receipt diff needs a store")
    with open_archive(store.path, option=store.named_by) as reader:
        start = max(0, reader.last - args.last) if args.last else 0
        rows = reader.rows(ReceiptFilter(since=args.since), after=start)
        for _, receipt in progress(rows, "receipts", None if args.since else reader.last - start):
            if is_observed(receipt) or (args.all and not states_erasure(receipt)):
                tally.add(receipt)
    groups = tally.groups()
    new = groups if earlier is None else [group for group in groups if group.kind not in earlier.counts]
    named = str(store.path) if isinstance(store.path, Path) else store.path.url_with_key
    if wants_json(args):
        emit(compact(document(tally, groups, named, earlier)))
    else:
        emit(report(tally, groups, named, shown=args.top, earlier=earlier))
    if not tally.observed:
        raise CliError(
            "there are no receipts of observed requests to compare",
            fix="switch CHIO_OBSERVE on in the application, or give --all if the receipts are of another sidecar",
        )
    return WOULD_REFUSE if (tally.beyond or new if args.fail_on == "new" else tally.refused) else 0


def document(tally: Tally, groups: list[Group], store: str, earlier: Earlier | None = None) -> dict[str, Any]:
    """Return the report as a JSON object.

    Args:
        tally: what was counted, and `groups`: its groups.
        store: the value of --receipt-store, for the command lines of remedies.
        earlier: a report to compare with: each group has its `before` then, and `gone` are those that are no more.
    """
    found, together = [], namespaces(groups)
    for group in groups:
        lines = [
            {"for": label, "line": line} | ({"import": imports} if imports else {})
            for label, line, imports in remedies(group, store, together)
        ]
        one = group.document() | {"remedies": lines}
        found.append(one if earlier is None else one | {"before": earlier.counts.get(group.kind)})
    added = [{"in": file, "lines": lines} for file, lines in view_policies(groups, together)]
    whole = {"observed": tally.observed, "would_refuse": tally.refused, "groups": found, "beyond_groups": tally.beyond}
    whole |= {"view_policies": added} if added else {}
    return whole if earlier is None else whole | {"gone": earlier.gone(groups)}


def report(
    tally: Tally, groups: list[Group], store: str, *, shown: int = _SHOWN, earlier: Earlier | None = None
) -> str:
    """Return the report for people, with at most `shown` groups; what strangers chose is escaped.

    Args:
        tally, groups, store, earlier: see `document`.
    """
    lines = [f"would have refused {tally.refused:,} of {tally.observed:,} observed requests"]
    if earlier is not None:
        new = sum(group.kind not in earlier.counts for group in groups)
        lines[0] += f" (before: {earlier.refused:,} of {earlier.observed:,})"
        lines.append(f"{new:,} kinds of refusal are new, {len(earlier.gone(groups)):,} are gone")
    together, imports = namespaces(groups), dict[str, None]()
    for group in groups[:shown]:
        kind, (newest, *_) = group.kind, group.newest
        before = None if earlier is None else earlier.counts.get(kind)
        mark = "" if earlier is None else "new: " if before is None else f"before {before:,}: "
        more = "at least " if group.many_callers else ""
        callers = (
            f"{more}{group.callers:,} caller{'' if group.callers == 1 else 's'}"
            if kind.caller is None
            else f"caller {escaped(kind.caller)}"
        )
        share = f"{100 * group.count / group.requests:.3g}% of its {group.requests:,}"
        lines += [
            "",
            f"{group.count:>7,}  {mark}{escaped(kind.method)} {_shown(kind.route)}: {_shown(kind.reason)}",
            f"         {share}, {callers}, {_time(group.first)} to {_time(group.last)}, newest {escaped(newest)}",
        ]
        for remedy in remedies(group, store, together):
            lines.append(f"         {remedy.label}: {_shown(remedy.line)}")
            imports |= {remedy.imports: None} if remedy.imports else {}
    if left := sum(group.count for group in groups[shown:]):
        lines += ["", f"and {left:,} more in {len(groups) - shown:,} smaller groups; --top or --json shows them"]
    if tally.beyond:
        lines += ["", f"and {tally.beyond:,} more, of too many kinds to tell apart"]
    if imports:
        lines += ["", "the lines above need:", *imports]
    for file, text in view_policies(groups[:shown], together):
        lines += ["", f"if no caller of these views needs a capability, in {file} (or add the entries to it):"]
        if "*" in text:
            lines.append("a * opens every view of its namespace, also those that no receipt is about")
        lines += [_shown(line) for line in text.splitlines()]
    return "\n".join(lines)


def _read(path: Path) -> Earlier:
    try:
        return Earlier.read(parse_json(path.read_bytes()))
    except OSError as exc:
        raise CliError(f"cannot read --since-report {path}: {exc.strerror}") from None
    except (InvalidDocument, ValueError) as exc:
        reason = exc.message if isinstance(exc, InvalidDocument) else str(exc)
        raise CliError(f"cannot use --since-report {path}: {reason}", fix="save one with receipt diff --json") from None


def _shown(text: str) -> str:
    # JSON's escapes of quotes would spoil a line that is meant to be copied.
    return escaped(text).replace('\\"', '"').replace("\\u2026", "…")


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if 0 <= seconds < 2**37 else "?"

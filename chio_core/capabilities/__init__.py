"""Capability tokens: read, verify, issue, match a scope, compare scopes."""

from chio_core.capabilities.scope import (
    NOT_A_SUBSET,
    is_subset,
    match_grant,
    matching_grants,
    pattern_covers,
    scope_allows,
)
from chio_core.capabilities.tokens import (
    DEFAULT_MAX_DEPTH,
    MAX_TOKEN_BYTES,
    CapabilityRejected,
    ConstraintError,
    backdated,
    issue_capability,
    link_signing_text,
    parse_capability,
    sign_link,
    signing_text,
    verify_capability,
    verify_delegation_chain,
    verify_token_chain,
)

__all__ = [
    "DEFAULT_MAX_DEPTH",
    "MAX_TOKEN_BYTES",
    "NOT_A_SUBSET",
    "CapabilityRejected",
    "ConstraintError",
    "backdated",
    "is_subset",
    "issue_capability",
    "link_signing_text",
    "match_grant",
    "matching_grants",
    "parse_capability",
    "pattern_covers",
    "scope_allows",
    "sign_link",
    "signing_text",
    "verify_capability",
    "verify_delegation_chain",
    "verify_token_chain",
]

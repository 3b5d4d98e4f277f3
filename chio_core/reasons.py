"""The words of a sidecar that are the protocol's: reasons of verdicts, and details of evidence.

The embedded sidecar and the sidecar of tests say the same (wire protocol, sections 1.6, 3.1 and 5).
"""

from typing import Final

BOTH_TOOL_FIELDS: Final = "tool-call evaluation requires both tool_server and tool_name"
NOT_GRANTED: Final = "capability does not authorize tool {tool} on server {server}"
OTHER_CAPABILITY: Final = "capability_id does not match the presented capability token"
NO_CAPABILITY: Final = "side-effect route requires a capability token"
NO_CAPABILITY_EVIDENCE: Final = "side-effect route requires a valid capability token"
SAFE_EVIDENCE: Final = "safe method, session-scoped allow"
CAPABILITY_EVIDENCE: Final = "valid capability token presented"
REVOKED: Final = "capability token has been revoked"
NEEDS_APPROVAL: Final = "request requires human approval before it can proceed"

EXHAUSTED: Final = "capability has no invocation left of the {limit} granted for tool {tool} on server {server}"
"""Beyond the protocol's April state."""

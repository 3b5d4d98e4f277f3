"""May this request run? One pipeline from a view to a decision."""

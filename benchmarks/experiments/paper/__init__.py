"""The paper's tables and figures on small data."""

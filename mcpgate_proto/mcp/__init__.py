"""What MCP messages mean, per revision. Tables and pure functions."""

"""The gateway as tools of the Model Context Protocol, at `/mcp` and as a program of a host's own."""

"""The context-length study: what more context buys on one's own data, and what it costs."""

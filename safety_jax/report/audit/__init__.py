"""The report of an audit of judges: a page, Markdown, and tables for the terminal."""

"""Start-up of console, script, notebook and queue server; error messages."""

"""caproto IOCs: the PVs of owners."""

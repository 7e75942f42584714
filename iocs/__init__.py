"""caproto IOCs: faces of PVs over owners."""

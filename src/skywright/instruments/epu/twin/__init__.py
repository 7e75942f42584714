"""A simulated visit: what EPU writes, file by file, with the truth about every micrograph."""

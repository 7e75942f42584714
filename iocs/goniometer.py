"""``python -m iocs.goniometer`` starts the IOC of the simulated goniometer."""

from iocs.loop.goniometer import main

if __name__ == "__main__":
    main()

"""``python -m iocs.psss`` starts the IOC of the spectrometer."""

from iocs.psss.ioc import main

if __name__ == "__main__":
    main()

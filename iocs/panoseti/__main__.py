"""``python -m iocs.panoseti`` starts the IOC."""

from iocs.panoseti.ioc import main

if __name__ == "__main__":
    main()

"""``python -m iocs.epu`` starts the IOC of a watched EPU directory."""

from iocs.epu.ioc import main

if __name__ == "__main__":
    main()

"""What leaves the system: versioned records, their JSON Schemas and deterministic ids."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

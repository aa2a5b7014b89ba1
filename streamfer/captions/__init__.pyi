from .folder import find_captioner as find_captioner
from .folder import list_captioners as list_captioners
from .lavis import import_lavis as import_lavis
from .loading import load_captioner as load_captioner

from .calls import annotate as annotate
from .calls import annotate_folder as annotate_folder
from .calls import ask as ask
from .calls import stream as stream
from .session import Session as Session

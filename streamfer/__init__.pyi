from .api import Session as Session
from .api import annotate as annotate
from .api import annotate_folder as annotate_folder
from .api import ask as ask
from .api import stream as stream
from .config import Config as Config
from .errors import StreamferError as StreamferError
from .errors import UserError as UserError
from .export.annotation import Annotation as Annotation
from .models import list_models as list_models
from .models import load_model as load_model
from .publish import subscribe as subscribe
from .publish import subscribe_async as subscribe_async
from .records import Record as Record

__version__: str

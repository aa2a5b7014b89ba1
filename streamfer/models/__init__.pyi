from .attention import choose_attention as choose_attention
from .expression import ExpressionModel as ExpressionModel
from .expression import ModelInfo as ModelInfo
from .import_official import import_checkpoint as import_checkpoint
from .inference import load_model as load_model
from .precision import choose_device as choose_device
from .precision import choose_precision as choose_precision
from .registry import list_models as list_models

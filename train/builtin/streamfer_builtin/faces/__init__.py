"""The built-in face detector: composing its training pictures, training, export to ONNX and evaluation.

``python -m streamfer_builtin.faces {compose,train,export,evaluate}`` runs the steps.
"""

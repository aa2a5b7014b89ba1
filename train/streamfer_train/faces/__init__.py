"""The built-in face detector: composing its training pictures, training, export to ONNX and evaluation.

``python -m streamfer_train.faces {compose,train,export,evaluate} -c configs/train/faces.yaml`` runs the steps.
"""

"""Trackers of other projects behind one small protocol: DVCLive, TensorBoard, Weights & Biases, MLflow."""

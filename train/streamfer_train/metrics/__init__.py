"""What a model is worth: recalls, calibration, intervals, regression and detection scores, pictures of them."""

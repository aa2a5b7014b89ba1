"""What a model is worth: recalls, calibration, intervals and detection scores, pictures of them."""

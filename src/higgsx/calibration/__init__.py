"""What calibration learns of a model from data: how much an error in each row of each weight costs."""

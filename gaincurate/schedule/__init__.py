"""From a scored set to rounds of training data that follow the model. Nothing in here needs torch."""

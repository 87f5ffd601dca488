"""The command `timm-debias report`: the results of many models as one HTML page."""

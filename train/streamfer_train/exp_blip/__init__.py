"""Exp-BLIP trained in three stages: AU-BLIP and Emot-BLIP, pseudo captions and their fusion, Exp-BLIP."""

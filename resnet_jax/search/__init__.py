"""Search: values of options proposed by Optuna, trained as lanes of one compiled population."""

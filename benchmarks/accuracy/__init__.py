"""How exact solvers and momenta are, against float64."""

paired
#> penstock-high setup portainer
block high 1

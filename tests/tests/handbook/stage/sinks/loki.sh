paired
certificates
block low 1

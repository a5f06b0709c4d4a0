"""What happens: source, kernels, dataflow, command line."""

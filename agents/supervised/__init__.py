"""Supervised learning on a stream of tasks: data sets, streams and the learner."""

"""What every layer shares: errors, registries, specs, named parameter trees and precision.

Nothing here knows of curvature, of networks or of files.
"""

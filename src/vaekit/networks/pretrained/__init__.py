"""Networks with published weights: Inception and LPIPS."""

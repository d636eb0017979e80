"""Images to a trace: the contract, the parts and what puts them together."""

"""World models as gymnasium environments."""

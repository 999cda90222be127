//! Steps, machines and everything that acts on the world.

//! Nothing: the tests are in `e2e.rs`. A package must have a target that always builds.

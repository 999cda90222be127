//! kprov: bare machines to a real Kubernetes cluster.

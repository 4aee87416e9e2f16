//! From a connection's configuration to an AWS credentials provider.

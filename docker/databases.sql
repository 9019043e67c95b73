-- The ledger's database, sweep, is made by the image; these are MLflow's.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;

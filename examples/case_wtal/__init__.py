"""CASE, weakly-supervised temporal action localization by clustering (ICCV 2023), with otlabel for its labels."""

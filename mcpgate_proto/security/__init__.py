"""Decides who may do what. Never calls upward and never acts: it answers with a decision."""

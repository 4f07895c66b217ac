"""The cloud side: rounds, guides and the services that devices and operators talk to. Imports nothing by
itself.
"""

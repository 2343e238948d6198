"""Do identities leak, and is the label told by what is not the brain?"""

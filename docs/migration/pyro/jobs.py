from Pyro5.api import register_class_to_dict, register_dict_to_class


class NoSuchJob(Exception):
    def __init__(self, message, number):
        super().__init__(message)
        self.number = number


# Of other than built-in exceptions, the serializer knows only what it is told. Both sides import this.
def to_dict(exc):
    return {"__class__": "jobs.NoSuchJob", "message": str(exc), "number": exc.number}


def from_dict(name, values):
    return NoSuchJob(values["message"], values["number"])


register_class_to_dict(NoSuchJob, to_dict)
register_dict_to_class("jobs.NoSuchJob", from_dict)

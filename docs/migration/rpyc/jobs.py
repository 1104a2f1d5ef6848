class NoSuchJob(Exception):
    def __init__(self, message, number):
        super().__init__(message, number)
        self.number = number

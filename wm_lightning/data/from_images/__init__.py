"""From a folder of pictures to WorldTasks: filters, screening, eight tasks a picture, a check of their grammar."""
